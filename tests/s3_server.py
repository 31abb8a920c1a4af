"""An S3 server on the loopback interface, by moto, with one empty bucket."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def s3_server() -> Iterator[tuple[int, dict[str, str]]]:
    """Yields its port, and the variables by which boto, s3fs and DVC find it: `s3://bucket`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    variables = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                 "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    boto3.client("s3", aws_access_key_id="test", aws_secret_access_key="test",
                 region_name="us-east-1", endpoint_url=variables["AWS_ENDPOINT_URL"]
                 ).create_bucket(Bucket="bucket")
    yield port, variables
    server.stop()
