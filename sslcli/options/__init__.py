"""Every option of every step, stated once: the recipe's keys and the CLI's flags come from here."""
