"""What everything else is said in: patterns, names with options, weights, layers, models, sums."""
