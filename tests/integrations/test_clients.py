"""Real mail programs deliver to a real gateway: plain, with STARTTLS, and with a login; the mail's words arrive."""

import smtplib
import ssl
import subprocess

import pytest

from tests import needs
from tests.live import Gateway

USER, PASSWORD = "cam", "secret"
CONFIG = """
integrations:
  plain: {type: smtp_server, listen: ["127.0.0.1:0"]}
  strict:
    {type: smtp_server, listen: ["127.0.0.1:0"], tolerance: strict, tls: required, login: required,
     users: {cam: secret}}
"""
MAIL = "From: dev@lan.example\r\nTo: a@gw.lan\r\nSubject: by {who}\r\n\r\nInput 3 active\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with Gateway(tmp_path_factory.mktemp("clients"), CONFIG) as running:
        ports = [
            line.split("127.0.0.1:")[1].split()[0].rstrip(",")
            for line in running.greeting.splitlines()
            if "127.0.0.1:" in line
        ]
        running.ports = {
            "plain": int(ports[0]),
            "starttls": int(ports[0]),
            "login": int(ports[0]),
            "required": int(ports[1]),
        }
        yield running


def command(*args, text=None):
    done = subprocess.run(args, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def by_smtplib(port, how, text, tmp_path):
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        if how in ("starttls", "required"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            smtp.starttls(context=context)
        if how in ("login", "required"):
            smtp.login(USER, PASSWORD)
        smtp.sendmail("dev@lan.example", ["a@gw.lan"], text.encode())


def by_swaks(port, how, text, tmp_path):
    args = [needs.program("swaks", "swaks"), "--server", f"127.0.0.1:{port}", "-f", "dev@lan.example", "-t", "a@gw.lan"]
    if how in ("starttls", "required"):
        args.append("--tls")
    if how in ("login", "required"):
        args += ["--auth", "LOGIN", "--auth-user", USER, "--auth-password", PASSWORD]
    command(*args, "--data", text.replace("\r\n", "\n"))


def by_curl(port, how, text, tmp_path):
    args = [needs.program("curl", "curl"), "-sS", "--url", f"smtp://127.0.0.1:{port}", "--mail-from", "dev@lan.example"]
    args += ["--mail-rcpt", "a@gw.lan", "-T", "-", "--noproxy", "*"]
    if how in ("starttls", "required"):
        args += ["--ssl-reqd", "--insecure"]
    if how in ("login", "required"):
        args += ["--user", f"{USER}:{PASSWORD}"]
    command(*args, text=text)


def by_msmtp(port, how, text, tmp_path):
    lines = ["account default", "host 127.0.0.1", f"port {port}", "from dev@lan.example"]
    if how in ("starttls", "required"):
        lines += ["tls on", "tls_starttls on", "tls_certcheck off"]
    if how in ("login", "required"):
        lines += ["auth plain" if how == "required" else "auth login", f"user {USER}", f"password {PASSWORD}"]
    file = tmp_path / "msmtprc"
    file.write_text("\n".join(lines) + "\n")
    file.chmod(0o600)
    command(needs.program("msmtp", "msmtp"), "-C", str(file), "a@gw.lan", text=text.replace("\r\n", "\n"))


def by_nodemailer(port, how, text, tmp_path):
    folder = needs.node_package("nodemailer")
    options = f"host: '127.0.0.1', port: {port}, secure: false"
    options += (
        ", tls: {rejectUnauthorized: false}, requireTLS: true"
        if how in ("starttls", "required")
        else ", ignoreTLS: true"
    )
    if how in ("login", "required"):
        options += f", auth: {{user: '{USER}', pass: '{PASSWORD}'}}"
    script = f"""
        const transport = require('nodemailer').createTransport({{{options}}});
        transport.sendMail({{envelope: {{from: 'dev@lan.example', to: ['a@gw.lan']}}, raw: {text!r}}}).then(
            () => transport.close(), error => {{ console.error(error); process.exit(1); }});
    """
    node = needs.program("node", "nodejs")
    done = subprocess.run([node, "-e", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


CLIENTS = {"smtplib": by_smtplib, "swaks": by_swaks, "curl": by_curl, "msmtp": by_msmtp, "nodemailer": by_nodemailer}


@pytest.mark.parametrize("how", ["plain", "starttls", "login", "required"])
@pytest.mark.parametrize("client", CLIENTS)
def test_delivers(gateway, client, how, tmp_path):
    who = f"{client} {how}"
    CLIENTS[client](gateway.ports[how], how, MAIL.format(who=who), tmp_path)
    before = len(gateway.mails())
    events = gateway.settled(before)
    event = next(event for event in events if event["mail"]["subject"] == f"by {who}")
    assert event["text"].strip() == "Input 3 active"
    details = gateway.cli("mails", event["id"]).stdout.decode()
    assert ("TLSv1" in details) == (how in ("starttls", "required"))


def test_required_login_and_tls_are_required(gateway):
    with smtplib.SMTP("127.0.0.1", gateway.ports["required"], timeout=30) as smtp:
        smtp.ehlo("x")
        assert smtp.mail("dev@lan.example")[0] == 530
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        smtp.starttls(context=context)
        smtp.ehlo("x")
        assert smtp.mail("dev@lan.example")[0] == 530
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login(USER, "wrong")
