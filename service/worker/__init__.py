"""The device's process: encoded images in, JSON fragments out."""
