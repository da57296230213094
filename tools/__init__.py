"""Developer and power-user programs: simulate, train, export, demo."""
