"""What the options of RecBole may be: values that run code, ranges, keys within dicts; imports no RecBole."""
