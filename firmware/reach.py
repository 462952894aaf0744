"""Why a server can't be reached, in words for a person."""

_NO_NETWORK = "can't be reached: there is no network"
_ERRORS = {
    12: "needs more memory than is left",
    32: "hung up",
    101: _NO_NETWORK,
    104: "hung up",
    105: "needs more memory than is left",
    110: "does not answer",
    111: "refuses the connection: does {} run there?",
    113: "can't be reached from here: is it the right network?",
    116: "does not answer",
    118: _NO_NETWORK,
    128: "hung up",
}


def _not_trusted(where: str, text: str, ca: str) -> str:
    text = text.replace("\n", " ").strip()
    if "future" in text or "expired" in text:
        return f"{where} is not trusted ({text}): is this board's clock set? See ntp"
    return f"{where} is not trusted ({text}): is {ca} who signed its certificate, for this host?"


def words(error: Exception, where: str, what: str, ca: str) -> str:
    """What an OSError means, its numbers being those of lwIP, Linux and mbedTLS; or a ValueError of mbedTLS.

    `where` is host and port, `what` runs there ("a broker"), `ca` is the setting that names its authority.
    """
    if isinstance(error, ValueError):
        return _not_trusted(where, str(error), ca)
    number = error.args[0] if error.args else 0
    text = str(error.args[1]) if len(error.args) > 1 else ""
    if "X509" in text or "CERT" in text:
        return _not_trusted(where, text, ca)
    if "MBEDTLS" in text or "SSL" in text:
        return f"{where} and we find no common TLS ({text})"
    if number in (-2, -202, -3, -5):
        return f"the host of {where} is not known here"
    return f"{where} {_ERRORS[number].format(what)}" if number in _ERRORS else f"{where}: {error}"
