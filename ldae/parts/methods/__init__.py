"""The methods that the paper compares with (Sec. 5), in a module each, and the encoder that they train."""
