"""Models of others, to be evaluated beside ours."""
