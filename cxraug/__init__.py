"""cxraug: balance, augment, anonymise and audit chest X-ray data sets, with evidence that holds."""

__version__ = "0.1.0"
