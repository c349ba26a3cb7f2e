"""The login with user name and password. Source: cQube's views.py, versions 1.0 to 1.6."""

import json
import re
from contextlib import suppress

from emitterd.client.http import HttpClient
from emitterd.client.responses import RequestKind, api_error
from emitterd.client.session import Credentials, RequestToken, Token, send_json
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, Stage
from emitterd.text import masked

TOKEN_LIFETIME_S = 300.0
"""Where the login does not name one: Flask-JWT's default, which cQube 1.0 has."""

TOKEN_LONGEST_S = 365 * 86400.0
"""The login may name any number; larger ones would overflow."""

_TOKEN = re.compile(r"[!-~]+")
"""What a header field may have: visible ASCII. Source: RFC 6750, section 2.1."""


def password_login(http: HttpClient, url: str) -> RequestToken:
    """Return the login of cQube 1.0 to 1.6, at the API with this URL."""

    def request_token(credentials: Credentials) -> Token:
        request = RequestKind.LOGIN
        body = {"username": credentials.username, "password": credentials.secret()}
        answer = send_json(http, request, f"{url}/auth", body, {})
        error = api_error(request, answer.status, answer.headers, answer.body)
        if error is not None:
            raise error
        fields: dict[str, object] = {}
        with suppress(ValueError, RecursionError):
            read = json.loads(answer.body)
            fields = read if isinstance(read, dict) else {}
        token = fields.get("access_token")
        if isinstance(token, str) and _TOKEN.fullmatch(token):
            return Token(token, _lifetime_s(fields.get("expires_in")))
        code, reason = Code.MALFORMED_ANSWER, "the login's answer has no valid token"
        if "error" in fields:
            # Upstream passes Keycloak's refusal on with HTTP 200.
            message = masked(str(fields.get("error_description") or fields["error"]))[:200]
            code, reason = Code.CREDENTIALS, f"the login says: {message}"
        raise DeliveryError(Decision.PAUSE, code, reason, stage=Stage.LOGIN)

    return request_token


def _lifetime_s(value: object) -> float:
    if isinstance(value, int | float) and value > 0:
        return float(min(value, TOKEN_LONGEST_S))
    return TOKEN_LIFETIME_S
