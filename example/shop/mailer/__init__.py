"""Mail to customers. Not called 'email', which is a package of Python's own."""
