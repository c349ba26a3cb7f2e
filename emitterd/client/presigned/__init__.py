"""cQube 1.0 to 4.1: a presigned grant for each file, and a POST to the S3 bucket.

`client` uploads a file, `login` and `grant` get the token and the permission for that, and `lookup`
finds out what the bucket has after a lost answer.
"""
