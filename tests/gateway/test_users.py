"""Hashes in the PHC string format, and the file of users."""

import os
import stat
import threading

import pytest

from gateway import users

# RFC 7914 §12, the third vector: "pleaseletmein", "SodiumChloride", N 16384, r 8, p 1.
VECTOR = (
    "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU"
    "$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw"
)


def test_the_vector_of_the_rfc():
    found = users.parse(VECTOR)
    assert str(found) == VECTOR
    assert found.matches(b"pleaseletmein")
    assert not found.matches(b"pleaseletmeout")


def test_each_hash_has_a_salt_of_its_own():
    one, other = users.hashed("pässword"), users.hashed("pässword")
    assert one.salt != other.salt
    assert str(one).startswith("$scrypt$ln=14,r=8,p=1$")
    assert users.parse(str(one)).matches("pässword".encode())


@pytest.mark.parametrize("text", ["sesame", "$sesame", "$scrypt", "$5", "$2 a pop"])
def test_a_password_is_a_password(text):
    assert users.parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "$scrypt$",
        VECTOR[:-40] + "!",
        VECTOR.replace("ln=14", "N=16384"),
        VECTOR + "\n",
        VECTOR.replace("$U29", "$U29k$"),
    ],
)
def test_a_hash_that_is_not_whole(text):
    with pytest.raises(ValueError, match=r"^this hash is not whole: make one with `mailwire user hash`, and copy all"):
        users.parse(text)


@pytest.mark.parametrize(
    "numbers", ["ln=20,r=8,p=1", "ln=14,r=99,p=1", "ln=14,r=8,p=17", "ln=0,r=8,p=1", "ln=14,r=0,p=1"]
)
def test_a_hash_that_would_eat_the_memory(numbers):
    with pytest.raises(ValueError, match="would take more than 64 MiB, or nothing"):
        users.parse(VECTOR.replace("ln=14,r=8,p=1", numbers))


@pytest.mark.parametrize(
    "text", ["$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA", "$6$salt$hash", "$y$j9T$salt$hash", "$2b$12$saltandhash"]
)
def test_a_hash_of_another_kind_is_not_taken_for_a_password(text):
    with pytest.raises(ValueError, match="this is a hash of a kind that is not read here"):
        users.parse(text)


def test_the_file_is_nobody_elses_and_is_the_folders_owners(tmp_path):
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
    path = tmp_path / users.FILE
    with users.changing(path) as known:
        known["cam"] = users.parse(VECTOR)
    assert users.read(path) == {"cam": users.parse(VECTOR)}
    facts = path.stat()
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert (facts.st_uid, facts.st_gid) == (tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    assert [path.name for path in tmp_path.iterdir()] == [users.FILE]


def test_a_change_that_fails_changes_nothing(tmp_path):
    path = tmp_path / users.FILE
    with users.changing(path) as known:
        known["cam"] = users.parse(VECTOR)

    def change():
        with users.changing(path) as known:
            known.clear()
            raise KeyError

    with pytest.raises(KeyError):
        change()
    assert list(users.read(path)) == ["cam"]


def test_changes_at_once_are_all_kept(tmp_path):
    path = tmp_path / users.FILE

    def add(number):
        with users.changing(path) as known:
            known[f"cam{number}"] = users.parse(VECTOR)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(users.read(path)) == 20
