"""Text-to-image pipelines of diffusers as cores: ``diffusers:PATH``."""
