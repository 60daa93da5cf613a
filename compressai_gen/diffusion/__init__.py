"""The generative half of both codecs: denoiser, sampler, noise, guidance and tiles."""
