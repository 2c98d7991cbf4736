"""The calls of `helm test`: the gateway answers, refuses a wrong API key, and forwards a right one.

Reads GATEWAY, TEST_PATH and, if there is one, TEST_KEY from the environment.
"""

import os
import sys
import time
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

PATIENCE_S = 60
WRONG_KEY = "quota-sidecar-helm-test"
FAILED = (502, 503, 504)


def ask(key):
    """The status and the X-Request-Id of a request with this API key."""
    address = urlsplit(os.environ["GATEWAY"])
    connection = HTTPConnection(address.hostname, address.port, timeout=10)
    try:
        connection.request("GET", os.environ["TEST_PATH"], headers={"X-Api-Key": key})
        response = connection.getresponse()
        return response.status, response.getheader("X-Request-Id")
    finally:
        connection.close()


def answer(key):
    """The first response, within PATIENCE_S: the names of a new Service take a while."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask(key)
        except (OSError, HTTPException) as error:
            if time.monotonic() > deadline:
                sys.exit(f"{os.environ['GATEWAY']} does not answer: {error}")
        time.sleep(1)


def main():
    """Exit with 1 and the reason if an answer is wrong."""
    status, request_id = answer(WRONG_KEY)
    if status != 401 or not request_id:
        sys.exit(f"a wrong API key: got {status}, X-Request-Id {request_id}; expected 401")
    print("a wrong API key is refused with 401")
    key = os.environ.get("TEST_KEY")
    if not key:
        print("no request with an API key: tests.keySecret.name is empty")
        return
    status, request_id = answer(key)
    if status == 401 or status in FAILED or not request_id:
        sys.exit(f"the API key of tests.keySecret: got {status}, X-Request-Id {request_id}")
    print(f"the API key of tests.keySecret is accepted; the API answered {status}")


main()
