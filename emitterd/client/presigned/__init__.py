"""cQube 1.0 to 4.1: a presigned grant for each file, and a POST to the S3 bucket."""
