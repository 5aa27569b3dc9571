"""The built-in model from its pictures on, one stage a file: see README.md beside this."""
