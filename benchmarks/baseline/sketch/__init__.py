"""The hot path alone, bare: what a durable delivered message costs at the least."""
