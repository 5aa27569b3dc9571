"""The version, where reading it costs nothing: the package's metadata take longer to find than a prompt to encode."""

VERSION = "0.2.0"
