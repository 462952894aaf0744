"""Real mail servers: Postfix, Exim, OpenSMTPD, sendmail, each as if it were installed, seen by nobody else.

`script/mtas` unpacks them. One runs in a mount namespace of its own, where its files lie over the machine's /usr, /etc
and /var (what it writes is in memory and gone at its end), and in a PID namespace, so that all its processes end with
it. It listens on a loopback port with STARTTLS and a login (user `relay`, password `right`), takes mail for any domain,
and hands it on by the domain: `plain.example` to the first port of `hops`, `tls.example` to the second, by STARTTLS,
`login.example` to the third, by STARTTLS with a login as `mta`, password `secret`. All of it takes root.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from tests import needs
from tests.certificates import Authority
from tests.mosquitto import free_port, until

_OVERLAY = """\
set -e
mount -t tmpfs tmpfs "$WORK"
for part in usr etc var lib; do
  if [ -d "$FILES/$part" ] && [ ! -L "/$part" ]; then
    mkdir -p "$WORK/$part/new" "$WORK/$part/work"
    mount -t overlay -o "lowerdir=$FILES/$part:/$part,upperdir=$WORK/$part/new,workdir=$WORK/$part/work" none "/$part"
  fi
done
number=64100
for user in $USERS; do
  echo "$user:x:$number:$number::/var/empty:/bin/false" >>/etc/passwd
  echo "$user:x:$number:" >>/etc/group
  number=$((number + 1))
done
mkdir -p /var/empty
hostname mta.example
echo "127.0.0.1 localhost mta.example mta" >/etc/hosts
"""


class Mta:
    """One server. A subclass says which package and users, what is prepared, and how it is started."""

    name = ""
    package = ""
    users = ""
    setup = ""
    """Lines of a shell, in the namespace, the server in the foreground at their end."""

    def __init__(self, folder: Path, authority: Authority, hops: Sequence[int] = (1, 1, 1)) -> None:
        self.folder = folder
        self.port = free_port()
        self.authority = authority
        self.hops = hops
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def version(cls) -> str:
        return (needs.CACHE / "mtas" / cls.package / "version").read_text().strip()

    def files(self) -> dict[str, str]:
        """Name -> content of what lies in its folder."""
        return {}

    def start(self) -> Self:
        files = needs.CACHE / "mtas" / self.package
        if not files.is_dir():
            needs.missing("there is no mail server to talk to: script/mtas unpacks them")
        if os.getuid() or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
            pytest.skip("mail servers run in a mount namespace, which takes root's rights")
        # Its paths are short and without a blank, whatever the test's are: no server can quote one everywhere.
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "work").mkdir(exist_ok=True)
        home = self.folder / "files"
        home.mkdir(exist_ok=True)
        for source in (self.authority.ca, self.authority.certificate, self.authority.key):
            shutil.copy(source, home)
        for name, content in self.files().items():
            (home / name).write_text(content)
        values = {"FILES": files, "WORK": self.folder / "work", "USERS": self.users, "HOME_": home}
        script = f'{_OVERLAY}\ncp -r "$HOME_" /etc/mta\ncd /etc/mta\n{self.setup}\nexit'
        apart = ("--mount", "--propagation", "private", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", *apart, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {name: str(value) for name, value in values.items()},
            )
        until(self._greets, f"for {self.name}")
        return self

    def _greets(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log()
        with socket.socket() as probe:
            probe.settimeout(5)
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
            greeting = probe.recv(100)
            probe.sendall(b"QUIT\r\n")
            return greeting.startswith(b"220")

    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")[-5000:]

    def stop(self) -> None:
        if self.process:
            self.process.kill()  # --kill-child: with the shell, and that with all that is in its namespace
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Postfix(Mta):
    name = "Postfix"
    package = "postfix"
    users = "postfix postdrop"
    setup = """
mkdir -p /etc/postfix/sasl /var/spool/postfix /var/lib/postfix /var/maildir
cp main.cf /etc/postfix/main.cf
cp master.cf /etc/postfix/master.cf
cp smtpd.conf /etc/postfix/sasl/smtpd.conf
echo right | saslpasswd2 -p -c -u mta.example -f /etc/mta/sasldb relay
chgrp postfix sasldb; chmod 640 sasldb
chown nobody /var/maildir
chown postfix /var/lib/postfix
/usr/sbin/postfix start-fg
"""

    def files(self) -> dict[str, str]:
        plain, tls, login = (f"[127.0.0.1]:{port}" for port in self.hops)
        return {
            "smtpd.conf": "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: /etc/mta/sasldb\n"
            "mech_list: PLAIN LOGIN CRAM-MD5\n",
            "main.cf": f"""
compatibility_level = 3.6
maillog_file = /dev/stdout
myhostname = mta.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_peername_lookup = no
disable_dns_lookups = yes
virtual_mailbox_domains = maildir.example
virtual_mailbox_base = /var/maildir
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_tls_security_level = may
smtpd_tls_chain_files = /etc/mta/server.key, /etc/mta/server.pem
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = mta.example
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = /etc/postfix/sasl
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = may
smtp_tls_policy_maps = inline:{{ {{ {tls} = encrypt }} {{ {login} = encrypt }} {{ {plain} = none }} }}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{{ {{ {login} = mta:secret }} }}
smtp_sasl_security_options =
transport_maps = inline:{{ {{ plain.example = smtp:{plain} }} {{ tls.example = smtp:{tls} }}
  {{ login.example = smtp:{login} }} }}
""",
            "master.cf": f"""
127.0.0.1:{self.port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
""",
        }

    def mails(self) -> list[bytes]:
        """What is in the Maildir of maildir.example, which lies in the server's own namespace."""
        assert self.process
        (shell,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [path.read_bytes() for path in Path(f"/proc/{shell}/root/var/maildir/box/new").glob("*")]


class Exim(Mta):
    name = "Exim"
    package = "exim4-daemon-light"
    users = "Debian-exim"
    setup = """
mkdir -p /var/spool/exim4 /var/log/exim4
chown -R Debian-exim:Debian-exim /var/spool/exim4 /var/log/exim4 /etc/mta
mkdir -p /etc/exim4; cp exim.conf /etc/exim4/exim4.conf
/usr/sbin/exim4 -bdf -q1m
"""

    def files(self) -> dict[str, str]:
        plain, tls, login = self.hops
        return {
            "exim.conf": f"""
primary_hostname = mta.example
daemon_smtp_ports = {self.port}
local_interfaces = 127.0.0.1
log_file_path = syslog
syslog_duplication = false
never_users = root
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts = *
tls_certificate = /etc/mta/server.pem
tls_privatekey = /etc/mta/server.key
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
acl_smtp_rcpt = rcpt
queue_run_in_order = true

begin acl
rcpt:
  accept hosts = 127.0.0.1

begin routers
plain:
  driver = manualroute
  domains = plain.example
  transport = plain
  route_list = * 127.0.0.1
  self = send
tls:
  driver = manualroute
  domains = tls.example
  transport = tls
  route_list = * 127.0.0.1
  self = send
login:
  driver = manualroute
  domains = login.example
  transport = login
  route_list = * 127.0.0.1
  self = send

begin transports
plain:
  driver = smtp
  port = {plain}
  allow_localhost
  hosts_avoid_tls = *
tls:
  driver = smtp
  port = {tls}
  allow_localhost
  hosts_require_tls = *
  tls_verify_certificates =
login:
  driver = smtp
  port = {login}
  allow_localhost
  hosts_require_tls = *
  hosts_require_auth = *
  tls_verify_certificates =

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{relay}}}}{{eq{{$auth3}}{{right}}}}}}}}
  server_set_id = $auth2
  client_send = ^mta^secret
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{relay}}}}{{eq{{$auth2}}{{right}}}}}}}}
  server_set_id = $auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{relay}}{{right}}fail}}
  server_set_id = $auth1
"""
        }


class OpenSmtpd(Mta):
    name = "OpenSMTPD"
    package = "opensmtpd"
    users = "opensmtpd opensmtpq"
    setup = """
mkdir -p /var/spool/smtpd
chmod 711 /var/spool/smtpd
chgrp opensmtpq /usr/sbin/smtpctl
chmod 2555 /usr/sbin/smtpctl
chown root:opensmtpd /etc/mta/*
chmod 640 /etc/mta/*
chmod 600 server.key
echo "relay $(/usr/sbin/smtpctl encrypt right)" >users
/usr/sbin/smtpd -d -f /etc/mta/smtpd.conf
"""

    def files(self) -> dict[str, str]:
        plain, tls, login = self.hops
        return {
            "users": "",
            "secrets": "hop mta:secret\n",
            "smtpd.conf": f"""
table users file:/etc/mta/users
table secrets file:/etc/mta/secrets
pki mta.example cert "/etc/mta/server.pem"
pki mta.example key "/etc/mta/server.key"
listen on lo port {self.port} tls pki mta.example auth-optional <users> hostname mta.example
action "plain" relay host "smtp+notls://127.0.0.1:{plain}"
action "tls" relay host "smtp+tls://127.0.0.1:{tls}" tls no-verify
action "login" relay host "smtp+tls://hop@127.0.0.1:{login}" auth <secrets> tls no-verify
match from any for domain "plain.example" action "plain"
match from any for domain "tls.example" action "tls"
match from any for domain "login.example" action "login"
""",
        }


_SMTP_MAILER = (
    "P=[IPC], F=mDFMuXa8, S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP/HdrFromSMTP, E=\\r\\n, L=990, T=DNS/RFC822/SMTP, "
    "A=TCP $h "
)


class Sendmail(Mta):
    name = "sendmail"
    package = "sendmail-bin"
    users = "smmta smmsp"
    setup = """
mkdir -p /var/spool/mqueue /var/spool/mqueue-client /etc/mail /run/sendmail
chown root:root /etc/mta /etc/mta/*
chmod 600 server.key
m4 sendmail.mc >/etc/mail/sendmail.cf
mkdir -p /etc/mail/sasl; cp Sendmail.conf /etc/mail/sasl/Sendmail.conf.2
mkdir -p /usr/lib/sasl2; cp Sendmail.conf /usr/lib/sasl2/Sendmail.conf
echo right | saslpasswd2 -p -c -u mta.example -f /etc/mta/sasldb relay
chmod 600 sasldb
echo mta.example >/etc/mail/local-host-names
/usr/libexec/sendmail/makemap hash /etc/mail/mailertable <mailertable
/usr/libexec/sendmail/makemap hash /etc/mail/access <access
: >/etc/mail/aliases
/usr/libexec/sendmail/sendmail -bi
echo starting
/usr/libexec/sendmail/sendmail -bD -q5s
"""

    def files(self) -> dict[str, str]:
        mailers = "\n".join(f"Mhop{number}, {_SMTP_MAILER}{port}" for number, port in enumerate(self.hops))
        return {
            "Sendmail.conf": "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: /etc/mta/sasldb\n"
            "mech_list: PLAIN LOGIN CRAM-MD5\n",
            "mailertable": "plain.example\thop0:[127.0.0.1]\ntls.example\thop1:[127.0.0.1]\n"
            "login.example\thop2:[127.0.0.1]\n",
            "access": 'Connect:127.0.0.1\tRELAY\nAuthInfo:127.0.0.1\t"U:mta" "I:mta" "P:secret" "M:PLAIN"\n',
            "sendmail.mc": f"""
include(`/usr/share/sendmail/cf/m4/cf.m4')dnl
OSTYPE(`debian')dnl
DOMAIN(`debian-mta')dnl
undefine(`confHOST_STATUS_DIRECTORY')dnl
define(`confDOMAIN_NAME', `mta.example')dnl
define(`confDONT_PROBE_INTERFACES', `true')dnl
define(`confTO_IDENT', `0')dnl
define(`confCACERT_PATH', `/etc/mta')dnl
define(`confCACERT', `/etc/mta/ca.pem')dnl
define(`confSERVER_CERT', `/etc/mta/server.pem')dnl
define(`confSERVER_KEY', `/etc/mta/server.key')dnl
define(`confAUTH_MECHANISMS', `PLAIN LOGIN CRAM-MD5')dnl
define(`confAUTH_REALM', `mta.example')dnl
TRUST_AUTH_MECH(`PLAIN LOGIN CRAM-MD5')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`mailertable')dnl
FEATURE(`access_db')dnl
DAEMON_OPTIONS(`Family=inet, Name=MTA, Address=127.0.0.1, Port={self.port}')dnl
MAILER(`local')dnl
MAILER(`smtp')dnl
MAILER_DEFINITIONS
{mailers}
""",
        }


ALL = (Postfix, Exim, OpenSmtpd, Sendmail)
