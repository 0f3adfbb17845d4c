"""The world itself: every command works on it, with nothing wrong before anything is broken."""


def test_every_command_works(world, tools, tool, play, judge):
    verdict = judge(13)
    for name, (_, product) in tools.items():
        answer = play(*tool(name, world[product]), "-o", f"{name}.fits")
        verdict.done(name, answer)
