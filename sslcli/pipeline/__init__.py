"""Jobs (one a command) and the chain of a recipe's steps, cached by content."""
