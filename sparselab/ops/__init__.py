"""The few numeric primitives that strategies and masks are made of, written once for each backend."""
