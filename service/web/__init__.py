"""The HTTP process. It never imports torch, so it answers while models still load."""
