"""The conditional diffusion core: a small U-Net that corrects the exact denoiser of a Gaussian."""
