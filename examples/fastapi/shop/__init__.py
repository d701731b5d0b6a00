"""A small shop: a web process takes orders, a worker charges and records them.

Not a word about tracing in it, but for the tenant that travels as baggage.
"""
