"""What the options of RecBole may be: unsafe values, ranges, and the keys within dicts; imports no RecBole."""
