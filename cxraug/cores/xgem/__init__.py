"""XGeM (MedCoDi-M): three UNets that draw a frontal view, a lateral view and a report from shared CLIP embeddings."""
