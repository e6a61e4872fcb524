"""sparselab: show what N:M sparsity does to a network, make it hurt less, prove that nothing else changed."""
