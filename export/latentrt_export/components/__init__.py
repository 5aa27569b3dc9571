"""A bundle's components, as modules with the inputs that they are traced with."""
