"""The methods that the paper compares with (Sec. 5): MAE and MoCo v3, on the same encoder and by their own recipes."""
