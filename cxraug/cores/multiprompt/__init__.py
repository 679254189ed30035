"""A core whose views and report share one denoiser."""
