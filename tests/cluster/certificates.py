"""A throw-away certificate authority, and a certificate and kubeconfig for each part."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.cluster.layout import Layout, second

DAYS: Final = 30
KUBECONFIGS: Final = {
    "admin": ("system:masters", "admin"),
    "kubelet": ("system:nodes", "system:node:{node}"),
    "controllers": (None, "system:kube-controller-manager"),
    "scheduler": (None, "system:kube-scheduler"),
    "proxy": (None, "system:kube-proxy"),
}
"""File → group and user, as Kubernetes' built-in roles know them."""


class Authority:
    """Signs what the cluster's parts show each other; keys are written for their owner alone."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder = layout.run / "pki"
        self._folder.mkdir(parents=True, mode=0o700)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test cluster")])
        self._certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._write("ca", self._certificate, self._key)

    @property
    def folder(self) -> Path:
        return self._folder

    def write_all(self) -> None:
        """Everything that the parts of a cluster need."""
        place = self._layout
        api = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        addresses = ["127.0.0.1", place.node_ip, place.service_ip]
        self.issue("apiserver", "kube-apiserver", names=[*api, *addresses])
        self.issue("kubelet-client", "kube-apiserver-kubelet-client", group="system:masters")
        self.issue("front-proxy", "front-proxy")
        self.issue("webhook", "webhook", names=["localhost", "127.0.0.1", place.node_ip])
        for file, (group, user) in KUBECONFIGS.items():
            names = [place.node, place.node_ip] if file == "kubelet" else []
            self.issue(file, user.format(node=place.node), group=group, names=names)
            self._kubeconfig(file)
        other = second(place)
        names = [other.node, other.node_ip]
        self.issue(other.node, f"system:node:{other.node}", group="system:nodes", names=names)
        self._kubeconfig(other.node)
        self._service_accounts()

    def issue(
        self, file: str, user: str, *, group: str | None = None, names: list[str] | None = None
    ) -> None:
        """Write `<file>.crt` and `<file>.key`; names are host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
        if group is not None:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(x509.Name(attributes), self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_alternative(n) for n in names])
            builder = builder.add_extension(alternatives, critical=False)
        self._write(file, builder.sign(self._key, hashes.SHA256()), key)

    def _write(
        self, file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        (self._folder / f"{file}.crt").write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
        )
        _write_key(self._folder / f"{file}.key", key)

    def _kubeconfig(self, file: str) -> None:
        def encoded(name: str) -> str:
            return base64.b64encode((self._folder / name).read_bytes()).decode()

        cluster = {"server": self._layout.server, "certificate-authority-data": encoded("ca.crt")}
        user = {
            "client-certificate-data": encoded(f"{file}.crt"),
            "client-key-data": encoded(f"{file}.key"),
        }
        path = self._layout.run / f"{file}.conf"
        path.touch(mode=0o600)
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": file, "user": user}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": file}}],
                    "current-context": "test",
                }
            )
        )

    def _service_accounts(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _write_key(self._folder / "service-accounts.key", key)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self._folder / "service-accounts.pub").write_bytes(public)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
