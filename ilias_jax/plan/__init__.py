"""What a run will take: formulas, and the rates of this machine."""
