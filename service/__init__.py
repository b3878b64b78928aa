"""The HTTP service around SOLOv2; its folders are the processes it runs as."""
