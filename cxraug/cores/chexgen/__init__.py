"""ChexGen (Ji et al., NEJM AI 2026, arXiv 2509.03903): its checkpoints in diffusers' modules, behind the contract."""
