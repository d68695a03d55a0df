"""Many runs side by side: what they cost."""
