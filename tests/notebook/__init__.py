"""What notebooks show, with ipywidgets 8 or 7: `.ci/run` runs these tests with both."""
