"""Files of weights of every library, as arrays by name, and as parameters."""
