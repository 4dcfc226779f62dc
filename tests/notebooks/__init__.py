"""The notebooks of the folder ``notebooks``, and the image that runs one of them."""
