"""Studies: several arms over several seeds from one file, run, matched in cost and compared."""
