"""Names of members: one key per image, whatever the images are called."""

from fcmae.packing.names import changed_keys, class_of, classes_of, key_of


def test_a_key_has_no_dots_in_its_last_part_and_leads_nowhere_else() -> None:
    assert key_of("dog/1.jpg") == "dog/1"
    assert key_of("v1.0/IMG_2020.01.02.jpeg") == "v1.0/IMG_2020_01_02"
    assert key_of("../../etc/passwd.png") == "etc/passwd"
    assert key_of("/etc/x.png") == "etc/x"
    assert key_of("a\\b.png") == "a_b"


def test_images_whose_names_differ_by_the_ending_alone_get_keys_of_their_own() -> None:
    names = ["a/1.jpg", "a/1.png", "a/1.PNG", "b/1.jpg", "a/1-png.jpg"]
    changed = changed_keys(names)
    assert changed == {1: "a/1-png", 2: "a/1-png-2", 4: "a/1-png-jpg"}
    keys = [changed.get(n) or key_of(name) for n, name in enumerate(names)]
    assert len(set(keys)) == len(names)


def test_classes_are_folders_that_every_image_lies_in() -> None:
    assert classes_of(["dog/1.jpg", "cat/2.jpg", "dog/3/4.jpg"]) == ["cat", "dog"]
    assert classes_of(["train/dog/1.jpg", "val/cat/2.jpg"]) == ["cat", "dog"]
    assert classes_of(["dog/1.jpg", "2.jpg"]) == []
    assert classes_of(["all/1.jpg", "all/2.jpg"]) == []
    assert class_of("train/1.jpg") is None
    assert class_of("1.jpg") is None
