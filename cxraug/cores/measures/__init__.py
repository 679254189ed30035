"""What a generative core is worth: its images measured beside real ones, prompt by prompt."""
