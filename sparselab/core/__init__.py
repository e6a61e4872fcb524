"""What everything else is said in: patterns, names with options, weights as matrices, layers, models, files, sums."""
