"""One model, one file, named by its lower-cased class."""
