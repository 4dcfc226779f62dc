"""The documentation: its code blocks run, its links lead somewhere, its tables say what the code does."""
