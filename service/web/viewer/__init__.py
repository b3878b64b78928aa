"""The page ``/viewer``: photos in, what ``/score`` finds drawn over them."""
