"""Certificates as tests need them: an authority of their own, good ones, and every kind of bad one."""

import datetime
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.tls import ClientTls, TlsFiles

DAY = datetime.timedelta(days=1)


class Authority:
    """Issues certificates into `folder`. Its own certificate lies at `ca`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        own = self._builder(self._name, self._key, DAY).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.ca = folder / f"{name}.pem"
        replace(self.ca, _pem(own.sign(self._key, hashes.SHA256())))

    def issue(self, file: str, *names: str, valid_for: datetime.timedelta = DAY) -> TlsFiles:
        """Return the files of a new certificate for these DNS names and URIs; a negative validity has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_common_name(file), key, valid_for)
        builder = builder.add_extension(x509.SubjectAlternativeName(list(_sans(names))), critical=False)
        files = TlsFiles(self.folder / f"{file}.pem", self.folder / f"{file}.key", self.ca)
        assert files.cert and files.key
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        replace(files.key, key_pem)
        replace(files.cert, _pem(builder.sign(self._key, hashes.SHA256())))
        return files

    def client(self, file: str, *names: str, server_name: str = "") -> ClientTls:
        """Return a client with a new certificate."""
        return ClientTls(self.issue(file, *names), server_name)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, valid_for: datetime.timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * abs(valid_for))
            .not_valid_after(now + valid_for)
        )


def replace(path: Path, content: bytes) -> None:
    """Put a file in place at once, as Kubernetes does with those of a Secret."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def encrypt(key_file: Path) -> None:
    """Encrypt a private key with a password that nobody knows."""
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    algorithm = serialization.BestAvailableEncryption(b"secret")
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, algorithm))


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _sans(names: Iterable[str]) -> Iterable[x509.GeneralName]:
    return (x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name) for name in names)
