"""The few numeric primitives, once a backend: what strategies and masks are made of."""
