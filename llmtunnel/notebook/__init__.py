"""What notebooks show. ipywidgets and IPython are imported only when one asks for them."""
