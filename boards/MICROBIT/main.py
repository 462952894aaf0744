# What a micro:bit says on its USB line at 115200 baud: `button_a on`, `button_a off`, `shake on`, and each ten seconds
# `alive`. Its MicroPython is too old and its memory too small for the firmware, so it prints lines, which the
# integration `serial` takes with `format: lines`. Not temperature(): it hangs the board under QEMU.
from microbit import accelerometer, button_a, button_b, running_time, sleep


def say(name, on):
    print(name + (" on" if on else " off"))


def main():
    was = [False, False, False]
    beat = -10000
    while True:
        now = [button_a.is_pressed(), button_b.is_pressed(), accelerometer.was_gesture("shake")]
        for i in range(3):
            if now[i] != was[i]:
                say(("button_a", "button_b", "shake")[i], now[i])
        was = now
        if running_time() - beat >= 10000:
            beat = running_time()
            print("alive")
        sleep(100)


main()
