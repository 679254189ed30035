"""Public chest X-ray archives: their official files in, a manifest out. One file per source, one contract for all."""
