"""One denoiser for frontal view, lateral view and report, given any subset of prompts and of each other."""
